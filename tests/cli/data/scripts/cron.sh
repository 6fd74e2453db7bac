# flux cron. It leaves no entry.
r flux cron list
r flux cron interval 1h hostname
r flux cron interval -N hourly -c 3 -a 2h 1.5h echo x y
r flux cron event -n 2 -a 1 -i 1s my.topic true
r flux cron interval -c 1 -a 0.01 -o task-history-count=2,timeout=30 10s sh -c "echo out; exit 3"
r flux cron at 'next year' echo there
r flux cron interval foo true
r flux cron interval 1
r flux cron event foo
r flux cron at 'not a date' x
r flux cron
r flux cron foo
echo "1 2 3 4 * command # comment" | r flux cron tab >/dev/null
echo "bad line" | r flux cron tab
r flux cron list
r flux cron stop 1
r flux cron stop 1
r flux cron list
r flux cron start 1
r flux cron start 1
r flux cron start 99
r flux cron stop 99
r flux cron delete 99
r flux cron delete 1
r flux cron dump 99
r flux cron dump -k name 2
r flux cron dump -k typedata.interval 2
r flux cron dump -k repeat 2
r flux cron dump -k command 2
r flux cron dump -k stopped 2
r flux cron dump 2 | cut -d= -f1 | sort
r flux cron dump 3 | cut -d= -f1 | sort
r flux cron dump
r flux cron sync
r flux cron sync -e 10ms foo
r flux cron sync
r flux cron sync foo
r flux cron sync -d
r flux cron delete
for id in 2 3 4 5 6; do r flux cron delete -k $id; done
r flux cron list
