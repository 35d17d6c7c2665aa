-- Let nobody append until the end of the transaction. Returns when those at work have ended: each
-- append shares the lock of the whole log, see `take_locks`.
create function hold_appends() returns void language plpgsql
set search_path from current as $$
begin
  perform pg_advisory_xact_lock('event_tags'::regclass::oid::integer, hashtext('log'));
end $$;
-- It would let anybody hold up writers.
revoke execute on function hold_appends from public;
