# flux multi-prog.
cat >good <<'X'
# comment
0 echo "a b" %t 'c %o' d%%t

1,3-4 sh -c 'echo x; exit %o' # more
* nothere %t %o
X
echo "0 echo 'unbalanced" >quote
echo "foo echo" >ranks
echo "0 echo" >short
r flux multi-prog -n 0-5 good
r flux multi-prog -n 0-5 quote
r flux multi-prog -n 0-5 ranks
r flux multi-prog -n 0 short
r flux multi-prog -n 1 short
r flux multi-prog short
r flux multi-prog absent
r flux multi-prog -n xx short
r flux multi-prog
r flux multi-prog a b
export FLUX_TASK_RANK=3
r flux multi-prog short
r flux multi-prog good
export FLUX_TASK_RANK=9
r flux multi-prog good
