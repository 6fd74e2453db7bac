"""The HTML page of a run: what happened in each instance, collected before the instance ends.

`collect` asks an instance, `page` writes the file. A page is one file without a network: style, script and data are
in it. The plugin makes one for a run of tests, `flux-start --report` one for any program.
"""
