-- Hand out n positions, adjacent, and the time, both in one order for all.
--
-- The lock is taken in a block that is rolled back on purpose: that frees the lock and keeps the
-- sequences and variables as they are. So it is held for microseconds, not until the commit, and a
-- statement that is cancelled cannot leave it taken.
create function alloc(n bigint, out first bigint, out at bigint) language plpgsql
set search_path from current as $$
declare
  last bigint;
begin
  begin
    perform pg_advisory_xact_lock('positions'::regclass::oid::integer, 0);
    first := nextval('positions');
    if n > 1 then
      last := setval('positions', first + n - 1);
    end if;
    at := greatest(
      (extract(epoch from clock_timestamp()) * 1000000)::bigint,
      pg_sequence_last_value('clock'::regclass)); -- null at first
    at := setval('clock', at);
    raise exception using errcode = 'LF001';
  exception when sqlstate 'LF001' then
    null;
  end;
end $$;
-- It would let anybody hold up writers or readers.
revoke execute on function alloc from public;
