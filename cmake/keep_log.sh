#!/bin/sh
# Runs a compile command and keeps what the compiler said in <object>.log; prints only what is not
# ptxas's report on resources.
object=
previous=
for argument; do
  [ "$previous" = -o ] && object=$argument
  previous=$argument
done
[ -n "$object" ] || exec "$@"
"$@" >"$object.log" 2>&1
status=$?
if [ "$status" -ne 0 ]; then
  cat "$object.log" >&2
else
  grep -v -e '^ptxas info' -e 'bytes stack frame,' "$object.log" >&2
fi
exit "$status"
