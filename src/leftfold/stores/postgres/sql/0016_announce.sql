-- "All positions of mine will be above this": until the end of the transaction a shared lock says
-- it, whose number is the last position handed out, modulo 2^32. Readers stay at or below it.
create function announce() returns void language plpgsql
set search_path from current as $$
begin
  perform pg_advisory_xact_lock_shared(
    'events'::regclass::oid::integer,
    (pg_sequence_last_value('positions'::regclass) & 4294967295)::oid::integer);
end $$;
-- It would let anybody hold up writers or readers.
revoke execute on function announce from public;
