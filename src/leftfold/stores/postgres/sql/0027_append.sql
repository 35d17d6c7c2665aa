-- Record a group of appends: each one whose conditions hold, judged on its own and after those
-- before it. The events of all appends are in arrays of one length, `sizes` says how many belong to
-- each append. `event_streams` are places in `streams`, which has each name once; `tag_arrays` are
-- arrays as text. An array of nulls may be null itself. `depends` says whether a condition may be about events of appends before it.
--
-- `kept` are the builds of inline projections that the caller keeps up to date in the same
-- transaction; LF003 says which of those that are demanded it does not.
--
-- It waits for other transactions no longer than `patience_ms`, all in all.
--
-- Of each append: `firsts` is its first position, null where it was not recorded; `failed` and
-- `actual` are as in `judge`, and `failed` is 0 where one of its event ids is recorded already. Of
-- each event: its version. `last` is the end of the log, settled or not.
--
-- Arrays are unnested in select lists: in FROM each of them would be stored first, which took most of
-- the time of an insert. Calls are assignments and not PERFORM where they can be: those PL/pgSQL
-- evaluates without an executor.
create function append(
  patience_ms integer, kept bigint[], shared_locks text[], exclusive_locks text[],
  streams text[], sizes integer[], conditions jsonb[], depends boolean[],
  event_streams integer[], kind_ids integer[], ids uuid[], occurred bigint[],
  correlation_ids text[], causation_ids text[], command_ids text[], actors text[],
  metadatas text[], tag_arrays text[], datas bytea[],
  out firsts bigint[], out failed integer[], out actual bigint[], out event_versions bigint[],
  out last bigint
) language plpgsql volatile security definer
set search_path from current
-- Plans do not depend on the values here, and to make them anew costs more than to run them.
set plan_cache_mode to force_generic_plan
-- A plan that is made while the log is small must serve it when it is large.
set enable_seqscan to off
set enable_bitmapscan to off
-- Older servers take what is off for expensive, and compile it.
set jit to off as $$
declare
  give_up_at constant timestamptz := clock_timestamp() + patience_ms * interval '1 millisecond';
  callers_timeout constant text := current_setting('lock_timeout');
  known bigint[];
  versions bigint[];
  verdict record;
  judged integer := 0; -- appends
  judged_before integer; -- the run
  run_from integer; -- the first event of the run
  run_size bigint; -- events of the run that are to be recorded
  block record; -- what `alloc` handed out
  places bigint[]; -- of events in their run, from 0 on; null: not recorded
  from_event integer;
  to_event integer := 0;
  is_announced boolean := false;
  timeout text;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'leftfold appends in READ COMMITTED transactions, found %',
      current_setting('transaction_isolation') using errcode = 'LF002';
  end if;
  if current_setting('synchronous_commit') = 'off' then
    raise exception 'leftfold needs synchronous_commit, and it is off' using errcode = 'LF002';
  end if;
  perform take_locks(shared_locks, exclusive_locks, give_up_at);
  -- From here on each statement sees all that earlier holders of the locks have committed.
  known := array(
    select n from (select unnest(ids) as id, generate_subscripts(ids, 1) as n) as given
    -- Not EXISTS, of which the planner may make a join that reads the whole index.
    where (select true from events where events.id = given.id));
  versions := array(
    select coalesce((select max(version) from events where stream = given.name), 0)
    from (select unnest(streams) as name) as given);
  firsts := array_fill(null::bigint, array[cardinality(sizes)]);
  failed := array_fill(null::integer, array[cardinality(sizes)]);
  actual := firsts;
  event_versions := array_fill(null::bigint, array[cardinality(ids)]);
  places := event_versions;
  while judged < cardinality(sizes) loop
    -- A run: appends that are recorded together. A condition over a query looks at what is in the
    -- table, so what it depends on is put there first.
    judged_before := judged;
    run_from := to_event + 1;
    run_size := 0;
    while judged < cardinality(sizes)
      and (run_size = 0 or not depends[judged + 1])
    loop
      judged := judged + 1;
      from_event := to_event + 1;
      to_event := to_event + sizes[judged];
      if cardinality(known) > 0 then
        if exists (select from unnest(known) as n where n between from_event and to_event) then
          failed[judged] := 0;
          continue;
        end if;
      end if;
      if conditions[judged] is not null then
        select * into verdict from judge(conditions[judged], versions);
        failed[judged] := verdict.failed;
        actual[judged] := verdict.actual;
        continue when verdict.failed is not null;
      end if;
      firsts[judged] := run_size;
      for i in from_event .. to_event loop
        versions[event_streams[i]] := versions[event_streams[i]] + 1;
        event_versions[i] := versions[event_streams[i]];
        places[i] := run_size;
        run_size := run_size + 1;
      end loop;
    end loop;
    continue when run_size = 0;
    if not is_announced then
      -- Those who demand it hold the lock of the whole log, which every append shares.
      if exists (select from inline_builds where build <> all (kept)) then
        raise exception '%',
          (select string_agg(name, ', ' order by name) from inline_builds where build <> all (kept))
          using errcode = 'LF003';
      end if;
      perform announce();
      is_announced := true;
    end if;
    -- An insert may wait as well, for a transaction that has used the same event id.
    timeout := wait_until(give_up_at);
    block := alloc(run_size);
    insert into events
    select block.first + place, streams[stream], version, kind_id, id, block.at, occurred_at,
      correlation_id, causation_id, command_id, actor, metadata, tags::text[], data
    from (
      select
        unnest(places[run_from:to_event]) as place,
        unnest(event_streams[run_from:to_event]) as stream,
        unnest(event_versions[run_from:to_event]) as version,
        unnest(kind_ids[run_from:to_event]) as kind_id,
        unnest(ids[run_from:to_event]) as id,
        unnest(occurred[run_from:to_event]) as occurred_at,
        unnest(correlation_ids[run_from:to_event]) as correlation_id,
        unnest(causation_ids[run_from:to_event]) as causation_id,
        unnest(command_ids[run_from:to_event]) as command_id,
        unnest(actors[run_from:to_event]) as actor,
        unnest(metadatas[run_from:to_event]) as metadata,
        unnest(tag_arrays[run_from:to_event]) as tags,
        unnest(datas[run_from:to_event]) as data
    ) as given
    where place is not null;
    -- In a statement of its own, as most events have no tags.
    if tag_arrays is not null then
      insert into event_tags
      select tag, position, kind_id from events cross join unnest(tags) as tag
      where position between block.first and block.first + run_size - 1;
    end if;
    -- Places in the run become positions.
    for i in judged_before + 1 .. judged loop
      firsts[i] := block.first + firsts[i];
    end loop;
  end loop;
  timeout := set_config('lock_timeout', callers_timeout, true);
  if array_position(firsts, null) is null then
    last := block.first + run_size - 1;
  else
    select coalesce(max(position), 0) into last from events;
  end if;
end $$;
-- For the owner, and for whom the owner lets append.
revoke execute on function append from public;
