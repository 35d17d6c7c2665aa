-- Take the locks that keep others from what an append writes, and from what its conditions look at,
-- until the end of the transaction; or give up at a moment. All take theirs in one order, each in
-- its strongest mode at once, so there is no deadlock. Names that share a number only wait for each
-- other in vain.
--
-- The table of locks of a server is finite, so very many become the lock of the whole log.
create function take_locks(shared text[], exclusive text[], give_up_at timestamptz)
returns void language plpgsql
set search_path from current as $$
declare
  class constant integer := 'event_tags'::regclass::oid::integer;
  lock record;
begin
  if cardinality(shared) + cardinality(exclusive) > 1000 then
    exclusive := array['log'];
    shared := '{}';
  end if;
  for lock in
    select hashtext(name) as key, bool_or(is_exclusive) as is_exclusive
    from (
      select unnest(shared) as name, false as is_exclusive
      union all select unnest(exclusive), true) as wanted
    group by 1 order by 1
  loop
    if lock.is_exclusive then
      continue when pg_try_advisory_xact_lock(class, lock.key);
      perform wait_until(give_up_at);
      perform pg_advisory_xact_lock(class, lock.key);
    else
      continue when pg_try_advisory_xact_lock_shared(class, lock.key);
      perform wait_until(give_up_at);
      perform pg_advisory_xact_lock_shared(class, lock.key);
    end if;
  end loop;
end $$;
-- It would let anybody hold up writers or readers.
revoke execute on function take_locks from public;
