-- Up to where the log is settled: no event at or below `settled` will ever appear.
--
-- The order of the statements matters. First the last position handed out, then who is still
-- writing: a writer who is not seen then has ended, or will get positions above the one that was
-- read first.
create function gate(out handed_out bigint, out settled bigint) language plpgsql volatile
set search_path from current as $$
begin
  select last_value into handed_out from positions;
  -- Lock numbers are modulo 2^32. One that seems to be ahead was announced after the first
  -- statement, and holds nothing back.
  select handed_out - coalesce(max((handed_out - objid::bigint) & 4294967295), 0) into settled
  from pg_locks
  where locktype = 'advisory' and objsubid = 2 and classid = 'events'::regclass::oid
    and database = (select oid from pg_database where datname = current_database())
    and (handed_out - objid::bigint) & 4294967295 < 2147483648;
end $$;
