# flux config. It leaves the configuration as it was.
flux config get >before.json
r flux config set a.b 1
r flux config set -t integer a.b 1
r flux config set a.b 2
r flux config set a.b x
r flux config set -t string a.c "x y"
r flux config set a.c '"q"'
r flux config set -t real a.d 1.5
r flux config set -t real a.d z
r flux config set -t boolean a.e false
r flux config set a.e true
r flux config set -t object a.o '{"x":1}'
r flux config set -t object a.o '[1]'
r flux config set -t array a.l '[1]'
r flux config set -t array a.l '{'
r flux config set -t fsd a.f 5m
r flux config set -t fsd a.f zzz
r flux config set -t any a.g null
r flux config set -t fsd-integer a.g 1
r flux config set -t foo a.g 1
r flux config set a.b.c 1
r flux config get a
r flux config get -t fsd-integer a.f
r flux config get -t fsd-real a.f
r flux config get -t integer a.f
r flux config get nope
r flux config get -q nope
r flux config get -d 1 nope
r flux config get a..b
r flux config unset a.b
r flux config unset a.b
r flux config unset nope.x
r flux config get a
printf '[x]\ny = 1\n' | r flux config load
r flux config get
echo '{"x":{"y":2}}' >c.json
r flux config load <c.json
r flux config get
echo '[z]' >c.toml
r flux config load c.toml
r flux config get
r flux config load absent
r flux config builtin nope
flux config load before.json
