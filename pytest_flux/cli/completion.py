"""Completion of `flux-start` and `flux` in bash, zsh and fish: scripts, written from the tables of options.

The scripts are complete in themselves and start no Python: a shell that waits 100 ms for each TAB feels broken. They
need neither bash-completion nor other packages. Each shell has its own way:

* bash: two functions walk the words typed so far through ``case`` tables. Bash splits words at ``=``, so the argument
  of ``--option=`` is a word of its own, and the ``=`` before it as well.
* zsh: a function for each command, which describes its options to ``_arguments``.
* fish: a line for each option, with a condition: that the words so far lead to the command.

Values that the help shows as ``auto|system|PATH`` are offered; for PATH, FILE and DIR, files are. A command that runs
a program (``flux run``, ``flux-start``) completes its name, and after that files.
"""

from __future__ import annotations

import re

from pytest_flux.cli.topics import (
    Topic,
    flux_start_topic,
    flux_topic,
    runs_program,
    takes_directory,
    takes_file,
    values_of,
)
from pytest_flux.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NOTE = "written by pytest_flux.cli.completion"


def scripts() -> Iterator[tuple[str, str]]:
    """All scripts: where each goes below ``share/``, and its text."""
    for topic in (flux_start_topic(), flux_topic()):
        yield f"bash-completion/completions/{topic.name}", bash(topic)
        yield f"zsh/site-functions/_{topic.name}", zsh(topic)
        yield f"fish/vendor_completions.d/{topic.name}.fish", fish(topic)


def _shown(topic: Topic) -> list[Option]:
    return [option for option in topic.options if option.name and not option.hidden]


def _function(name: str) -> str:
    return "_" + re.sub(r"\W", "_", name)


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0].rstrip(".")


# -- bash

_BASH = """\
# bash completion of {name}; {note}
{function}_words() {{
    case $1 in
{words}
    esac
}}

{function}_values() {{
    case $1 in
{values}
        *) return 1 ;;
    esac
}}

{function}_offer() {{
    local IFS=$'\\n'
    case $1 in
        @file) COMPREPLY=($(compgen -f -- "$2")); compopt -o filenames ;;
        @directory) COMPREPLY=($(compgen -d -- "$2")); compopt -o filenames ;;
        @program) COMPREPLY=($(compgen -c -- "$2")) ;;
        @free) ;;
        *) COMPREPLY=($(compgen -W "${{1// /$IFS}}" -- "$2")) ;;
    esac
}}

{function}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} path={name} free=@program option= index word before kind
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${{COMP_WORDS[index]}} before=${{COMP_WORDS[index-1]}}
        if [[ $word == -* || $word == "=" || $before == "=" ]] || {function}_values "$path $before" >/dev/null; then
            continue
        elif [[ " $({function}_words "$path") " == *" $word "* ]]; then
            path+=" $word"
        else
            free=@file
        fi
    done
    before=${{COMP_WORDS[COMP_CWORD-1]}}
    if [[ $current == "=" ]]; then
        option="$before=" current=
    elif [[ $before == "=" ]]; then
        option="${{COMP_WORDS[COMP_CWORD-2]}}="
    elif [[ $before == -* ]]; then
        option=$before
    fi
    if [[ -n $option ]] && kind=$({function}_values "$path $option"); then
        {function}_offer "$kind" "$current"
    elif [[ $current == -* || " {groups} " == *" ${{path// /.}} "* ]]; then
        {function}_offer "$({function}_words "$path")" "$current"
    elif [[ " {programs} " == *" ${{path// /.}} "* ]]; then
        {function}_offer $free "$current"
    else
        {function}_offer @file "$current"
    fi
    if [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *= ]]; then
        compopt -o nospace
    fi
}}
complete -F {function} {name}
"""


def bash(topic: Topic) -> str:
    """The script for bash."""
    words, values, programs, groups = [], [], [], []
    for each in topic.walk():
        offered = [sub.name.split(" ")[-1] for sub in each.subtopics]
        for option in _shown(each):
            needs = option.argument and not option.optional
            offered += [f"-{option.key}"] * bool(option.key)
            offered.append(f"--{option.name}{'=' if needs else ''}")
            if option.argument:
                # After ``=``, and if the argument is not optional, as the next word.
                forms = [f"'{each.name} --{option.name}='"]
                if needs:
                    forms += [f"'{each.name} --{option.name}'"] + [f"'{each.name} -{option.key}'"] * bool(option.key)
                values.append(f"        {'|'.join(forms)}) echo '{_bash_kind(option)}' ;;")
        words.append(f"        '{each.name}') echo '{' '.join(offered)}' ;;")
        if each.subtopics:
            groups.append(each.name.replace(" ", "."))
        elif runs_program(each):
            programs.append(each.name.replace(" ", "."))
    return _BASH.format(
        name=topic.name,
        note=_NOTE,
        function=_function(topic.name),
        words="\n".join(words),
        values="\n".join(values),
        groups=" ".join(groups),
        programs=" ".join(programs),
    )


def _bash_kind(option: Option) -> str:
    if values_of(option):
        return " ".join(values_of(option))
    return "@directory" if takes_directory(option) else "@file" if takes_file(option) else "@free"


# -- zsh


def zsh(topic: Topic) -> str:
    """The script for zsh."""
    functions = [_zsh_function(each) for each in topic.walk()]
    name = _function(topic.name)
    # The file is run when the function is first called, and then defines it.
    return "\n".join([f"#compdef {topic.name}", f"# {_NOTE}", "", *functions, f'{name} "$@"', ""])


def _zsh_function(topic: Topic) -> str:
    lines = [f"{_function(topic.name)}() {{"]
    specs = [spec for option in _shown(topic) for spec in _zsh_specs(option)]
    if not topic.subtopics:
        rest = "'*:: :_normal'" if runs_program(topic) else "'*: :_files'"
        return "\n".join(
            [*lines, "  _arguments -s \\", *(f"    {spec} \\" for spec in specs), f"    {rest}", "}", ""]
        )
    lines += ["  local context state state_descr line", "  typeset -A opt_args", "  _arguments -s -C \\"]
    lines += [f"    {spec} \\" for spec in specs]
    lines += [
        "    '1: :->command' '*:: :->argument'",
        "  case $state in",
        "    command)",
        "      local -a commands=(",
    ]
    for sub in topic.subtopics:
        word = sub.name.split(" ")[-1]
        lines.append(f"        {_zsh_quoted(f'{word}:{_first_line(sub.summary)}')}")
    lines += ["      )", "      _describe command commands ;;", "    argument)", "      case $words[1] in"]
    lines += [f"        {sub.name.split(' ')[-1]}) {_function(sub.name)} ;;" for sub in topic.subtopics]
    return "\n".join([*lines, "      esac ;;", "  esac", "}", ""])


def _zsh_specs(option: Option) -> Iterator[str]:
    text = re.sub(r"([][\\:])", r"\\\1", " ".join(option.usage.split()))
    words = values_of(option)
    action = f"({' '.join(words)})" if words else " "
    if not words and (takes_directory(option) or takes_file(option)):
        action = "_files -/" if takes_directory(option) else "_files"
    argument = ""
    if option.argument:
        label = re.sub(r"([][\\:])", r"\\\1", option.argument)
        argument = f":{':' * option.optional}{label}:{action}"
    long = f"--{option.name}" + ("=-" if option.optional else "=" if option.argument else "")
    yield _zsh_quoted(f"*{long}[{text}]{argument}")
    if option.key:
        short = f"-{option.key}" + ("-" if option.optional else "+" if option.argument else "")
        yield _zsh_quoted(f"*{short}[{text}]{argument}")


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# -- fish

_FISH = """\
# fish completion of {name}; {note}
function {function}_at --description 'Whether the words so far lead to a command'
    set -l path {name}
    for word in (commandline -opc)[2..]
        if contains -- "$path $word" {groups}
            set path "$path $word"
        end
    end
    test "$path" = "$argv"
end

"""


def fish(topic: Topic) -> str:
    """The script for fish."""
    function = "_" + _function(topic.name)
    groups = " ".join(f"'{each.name}'" for each in topic.walk() if each is not topic)
    lines = [_FISH.format(name=topic.name, note=_NOTE, function=function, groups=groups)]
    for each in topic.walk():
        condition = f"complete -c {topic.name} -n '{function}_at {each.name}'"
        lines += [
            f"{condition} -f -a {sub.name.split(' ')[-1]} -d {_fish_quoted(_first_line(sub.summary))}\n"
            for sub in each.subtopics
        ]
        if runs_program(each):
            lines.append(f"{condition} -a '(__fish_complete_subcommand)'\n")
        lines += [f"{condition}{_fish_option(option)}\n" for option in _shown(each)]
    return "".join(lines)


def _fish_option(option: Option) -> str:
    words = f" -l {option.name}" + (f" -s {option.key}" if option.key else "")
    if option.argument and not option.optional:
        words += " -r" if values_of(option) or takes_file(option) or takes_directory(option) else " -x"
    if values_of(option):
        words += f" -f -a '{' '.join(values_of(option))}'"
    elif takes_directory(option):
        words += " -f -a '(__fish_complete_directories)'"
    elif takes_file(option):
        words += " -F"
    return f"{words} -d {_fish_quoted(' '.join(option.usage.split()))}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
