-- Functions are for everybody unless it is said otherwise. Those that write, or hold up writers, are
-- for the owner, and for whom the owner allows to append.
revoke execute on function append, intern_kinds, alloc, announce, take_locks from public;
