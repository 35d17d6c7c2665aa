revoke execute on function keep_snapshot from public;
