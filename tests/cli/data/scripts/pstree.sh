# flux pstree. It begins and ends with no job.
until [ -z "$(flux jobs -ano '{id}')" ]; do flux job purge --force --num-limit=0 >/dev/null; done
for word in 1 2; do flux run --job-name=one true; done
flux run --job-name=bad false 2>/dev/null
flux run --job-name=$(printf 'long%0200d' 1) true
one=$(flux submit -n1 --job-name=sleeper sleep inf)
nested=$(FLUX_URI_RESOLVE_LOCAL=t flux alloc -n1 --job-name=nested --bg)
export FLUX_URI_RESOLVE_LOCAL=t
inner=$(flux proxy $nested flux submit -n1 --job-name=inner sleep inf)
flux proxy $nested flux submit -n1 --job-name=inner2 sleep inf >/dev/null
flux proxy $nested flux job wait-event $inner start >/dev/null
r flux pstree
for options in -a -al -aX -aC '-a --ascii' -x -nx '-x --skip-root=no' '-d progress' '-d stats' '-d foo' -p \
    '--parent-label={id.f58}x' '-L 0' '-L 1' --skip-root=yes --skip-root=no --skip-root=maybe '-f failed' \
    '-f failed,completed --skip-root=yes' '-f bogus' '-o {bogus}' 1234 xx --foo '--ascii -C'; do
    r flux pstree $options
done
r flux pstree --detail-format='{name:>12}'
r flux pstree -p -o '{id.f58} {status}'
r flux pstree $nested $one
r flux pstree -x $nested
r flux pstree -a $nested
r env COLUMNS=10 flux pstree
r flux proxy $nested flux pstree -x --skip-root=no
r flux proxy $nested flux pstree
flux cancel $one $nested
flux job wait-event $nested clean >/dev/null
flux job wait-event $one clean >/dev/null
until [ -z "$(flux jobs -ano '{id}')" ]; do flux job purge --force --num-limit=0 >/dev/null; done
