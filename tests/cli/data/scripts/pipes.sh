# What commands do whose reader leaves.
work='for i in 1 2 3 4 5 6; do echo line $i; sleep 0.1; done; echo >mark; exit 3'
leave() { rm -f mark; echo "-- $1"; "$@" "$work" 2>/dev/null | head -c 1 >/dev/null; echo "${PIPESTATUS[0]}"; ls mark; }
leave flux run sh -c
leave flux submit --watch sh -c
leave flux exec -r0 sh -c
leave flux alloc -n1 sh -c
leave flux bulksubmit --watch --quiet sh -c {} :::
id=$(flux submit sh -c 'while :; do echo line; sleep 0.05; done')
flux job attach $id 2>/dev/null | head -c 1 >/dev/null
echo "${PIPESTATUS[0]}"
flux cancel $id
flux job wait-event $id clean >/dev/null
