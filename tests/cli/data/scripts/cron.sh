# flux cron. It leaves no entry.
m() { "$@" 2>&1 | sed -E 's/cron-[0-9]+/cron-N/g; s/(last ran|scheduled).*//'; echo "= ${PIPESTATUS[0]}"; }
m flux cron list
m flux cron interval 1h hostname
m flux cron interval -N hourly -c 3 -a 2h 1.5h echo x y
m flux cron event -n 2 -a 1 -i 1s my.topic true
m flux cron interval -c 1 -a 0.01 -o task-history-count=2,timeout=30 10s sh -c "echo out; exit 3"
m flux cron at 'next year' echo there
m flux cron interval foo true
m flux cron interval 1
m flux cron event foo
m flux cron at 'not a date' x 2>&1 | grep -v ^date
echo "1 2 3 4 * command # comment" | m flux cron tab
echo "bad line" | m flux cron tab
first=$(flux cron list | awk '$2 == "hostname" {print $1}')
state() { flux cron list | awk '{print $2, $3, $4}'; }
until state | grep -q 'sh Stopped'; do :; done
state
m flux cron stop $first
m flux cron stop $first
state
m flux cron start $first
m flux cron start $first
m flux cron start 9999
m flux cron stop 9999
m flux cron delete 9999
m flux cron delete $first
m flux cron dump 9999
second=$((first + 1))
for key in name typedata.interval repeat command stopped type; do m flux cron dump -k $key $second; done
flux cron dump $second | cut -d= -f1 | sort
flux cron dump $((second + 1)) | cut -d= -f1 | sort
m flux cron dump
m flux cron sync foo
m flux cron sync
m flux cron sync -d
for id in 2 3 4 5 6; do m flux cron delete -k $((first - 1 + id)); done
flux cron list
