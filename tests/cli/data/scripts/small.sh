# Commands that take a line or two each.
r flux lptest 5 2
r flux lptest x
r flux lptest 5 x
r flux jobtap list
r flux jobtap list -a
r flux jobtap remove foo
r flux jobtap query foo
r flux jobtap query .history
id=$(flux submit --urgency=hold true)
r flux post-job-event $id foo a=1 b.c=x
r flux post-job-event $id foo a
r flux post-job-event $id foo
r flux post-job-event f1 foo
r flux post-job-event zz foo
r flux job eventlog $id
flux cancel $id 2>/dev/null
flux job wait-event $id clean >/dev/null
r flux post-job-event $id foo
r flux run -- echo -- hi
r flux run -- sh -c 'exit 3' -- x
r flux submit -- -- true >/dev/null
id=$(flux submit echo hi); flux job wait-event $id clean >/dev/null
r flux job attach --show-status $id | tr '\r' '\n' | sed 's/  */ /g; s/ [0-9:]*$//'
r flux jobs -no '{name}' $id
flux job list -a | grep '"echo"' | tail -1 | r flux jobs -no '{name}' --from-stdin
echo zz | r flux jobs --from-stdin
r flux jobs --user=+$(id -u) -no '{name}'
r flux jobs --user=+x -no '{name}'
r flux cancel --user=+$(id -u) --all
r flux job killall --user=+0
flux kvs put empty=
r flux kvs get empty
r flux kvs get --stream empty
r flux kvs unlink empty
for form in words emoji; do
    for id in 0 1 1023 16777216 1234567890123 6731191091817472 18446744073709551615; do
        r flux job id --to=$form $id
        r flux job id $(flux job id --to=$form $id)
    done
done
