"""Why functions of flux-core's C API are not here."""

from __future__ import annotations

FORMS = "its tables of words and emoji are flux-core's"

_VARIADIC = "it takes a format and any number of arguments, which Python has no need of: pass JSON"

_REASONS = {
    "flux_plugin_": "plugins of flux-core are shared objects",
    "flux_module_": "broker modules run inside flux-core's broker",
    "flux_register_default_methods": "broker modules run inside flux-core's broker",
    "flux_subprocess_": "it serves C programs; from Python, use flux.subprocess or the RPCs of RFC 42",
    "flux_cmd_": "it serves C programs; from Python, use flux.subprocess or the RPCs of RFC 42",
    "flux_rexec": "it serves C programs; from Python, use flux.subprocess or the RPCs of RFC 42",
    "flux_local_exec": "it serves C programs; from Python, use the module subprocess",
    "flux_jobspec1_": "it serves C programs; from Python, use flux.job.JobspecV1",
    "flux_conf_": "it reads TOML for C programs; from Python, use Flux.conf_get()",
    "flux_get_conf": "it reads TOML for C programs; from Python, use Flux.conf_get()",
    "flux_set_conf": "it reads TOML for C programs; from Python, use Flux.conf_get()",
    "flux_handle_create": "it makes handles from connectors that are written in C",
    "flux_handle_destroy": "it makes handles from connectors that are written in C",
    "flux_stats_": "it sends statistics to a statsd server from C programs",
    "flux_msglist_": "it is a list of messages for C programs; Python has lists",
    "flux_msg_handler_addvec": "it takes a table of C functions",
    "flux_msg_handler_delvec": "it takes a table of C functions",
    "flux_msg_fprint": "it prints to a C stream",
    "flux_msg_aux_": "Python objects carry what belongs to them",
    "flux_periodic_watcher_": "no Python file of the wheel uses it; a timer watcher repeats, too",
    "flux_stat_watcher_": "no Python file of the wheel uses it",
    "flux_future_and_then": "its callbacks are C functions; from Python, use FutureExt",
    "flux_future_or_then": "its callbacks are C functions; from Python, use FutureExt",
    "flux_future_continue": "its callbacks are C functions; from Python, use FutureExt",
    "flux_future_fulfill_next": "its callbacks are C functions; from Python, use FutureExt",
    "flux_opt_": "its options are for connectors that are written in C",
    "flux_comms_error_set": "its callback is a C function",
    "flux_log_set_redirect": "its callback is a C function",
    "flux_get_msgcounters": "nothing here counts messages",
    "flux_clr_msgcounters": "nothing here counts messages",
    "flux_match_": "it fills a struct that Python makes by ffi.new()",
    "flux_control_": "control messages pass between brokers only",
    "flux_msg_": "no Python file of the wheel uses it",
    "idset_": "no Python file of the wheel uses it",
    "hostlist_": "no Python file of the wheel uses it",
}


def reason(name: str) -> str:
    """Why a function is not here."""
    if name.endswith(("pack", "pack_ex", "log_verror", "vlog", "llog", "asprintf", "set_prefix")):
        return _VARIADIC
    for prefix, why in sorted(_REASONS.items(), key=lambda item: -len(item[0])):
        if name.startswith(prefix):
            return why
    return "no Python file of the wheel uses it"
