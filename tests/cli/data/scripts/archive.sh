# flux archive. It leaves nothing in the KVS.
mkdir a b a/sub
echo hi >a/small; head -c 3000000 /dev/zero | tr '\0' x >a/big; ln -s small a/link; truncate -s 5000 a/sparse; : >a/empty
printf '\377\376' >a/bin; echo u >a/sub/u; chmod 600 a/small; touch -h -d @1000000 a/sub/u a/sub a/*
cd a
r flux archive create small big link sparse empty bin sub
r flux archive create small
r flux archive list -l
r flux archive list --raw | sed 's/"ctime":[0-9]*/"ctime":0/g; s/"\(path\|data\|encoding\|size\|mtime\|ctime\|mode\)"/\n&/g' | sort
r flux archive list 'b*'
r flux archive list 'zz*'
r flux archive extract -v -C ../b
r cmp big ../b/big
r sh -c 'cd ../b; find . -type f -o -type l | sort | xargs stat -c "%N %s %A"'
r flux archive extract -C ../b
r flux archive extract --overwrite -C ../b 's*'
r flux archive extract -t -v
r flux archive create --append bin
r flux archive list
r flux archive create --overwrite --preserve --name=x -C .. a
r flux archive list --name=x | sort
r flux kvs ls -R archive
r flux archive create -n y .
r flux archive list -n y | sort
r flux archive create -n z ./sub
r flux archive list -n z
r flux archive extract --name none
r flux archive extract --name none --waitcreate=0.1s
r flux archive extract --waitcreate=x
r flux archive create --name q absent
r flux archive create -n q --overwrite --append small
r flux archive create -n q -C /nowhere small
r flux archive create -n q --mmap --preserve small
r flux archive create -n q --mmap --no-force-primary small
mkfifo pipe
r flux archive create -n q pipe
r flux archive create -n m --mmap big small
r flux archive extract -n m -C ../b --overwrite
r cmp big ../b/big
for name in main x y z m; do r flux archive remove --name $name; done
r flux archive remove
r flux archive remove -f
