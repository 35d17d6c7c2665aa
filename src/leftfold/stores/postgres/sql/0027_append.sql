-- Record a group of appends: each one whose conditions hold, judged on its own and after those
-- before it. The events of all appends are in arrays of one length, `sizes` says how many belong to
-- each append. `event_streams` are places in `streams`, which has each name once; `event_tags_json`
-- are JSON arrays. `depends` says whether a condition may be about events of appends before it.
--
-- `kept` are the builds of inline projections that the caller keeps up to date in the same
-- transaction; LF003 says which of those that are demanded it does not.
--
-- It waits for other transactions no longer than `patience_ms`, all in all.
--
-- Of each append: `firsts` is its first position, null where it was not recorded; `failed` and
-- `actual` are as in `judge`, and `failed` is 0 where one of its event ids is recorded already. Of
-- each event: its version. `last` is the end of the log, settled or not.
create function append(
  patience_ms integer, kept bigint[], shared_locks text[], exclusive_locks text[],
  streams text[], sizes integer[], conditions jsonb[], depends boolean[],
  event_streams integer[], kind_ids integer[], ids uuid[], occurred bigint[],
  correlation_ids text[], causation_ids text[], command_ids text[], actors text[],
  metadatas text[], event_tags_json jsonb[], datas bytea[],
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
  run_first bigint;
  run_at bigint;
  from_event integer;
  to_event integer := 0;
  is_announced boolean := false;
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
    select n from unnest(ids) with ordinality as given (id, n)
    where exists (select from events where events.id = given.id));
  versions := array(
    select coalesce((select max(version) from events where stream = given.name), 0)
    from unnest(streams) with ordinality as given (name, n) order by n);
  firsts := array_fill(null::bigint, array[cardinality(sizes)]);
  failed := array_fill(null::integer, array[cardinality(sizes)]);
  actual := firsts;
  event_versions := array_fill(null::bigint, array[cardinality(ids)]);
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
      if exists (select from unnest(known) as n where n between from_event and to_event) then
        failed[judged] := 0;
        continue;
      end if;
      if conditions[judged] is not null then
        select * into verdict from judge(conditions[judged], versions);
        failed[judged] := verdict.failed;
        actual[judged] := verdict.actual;
        continue when verdict.failed is not null;
      end if;
      firsts[judged] := run_size;
      run_size := run_size + sizes[judged];
      for i in from_event .. to_event loop
        versions[event_streams[i]] := versions[event_streams[i]] + 1;
        event_versions[i] := versions[event_streams[i]];
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
    perform wait_until(give_up_at);
    select first, at into run_first, run_at from alloc(run_size);
    with batch as materialized (
      select given.*, streams[given.stream] as name,
        run_first + row_number() over (order by n) - 1 as position,
        (select array_agg(tag order by place)
         from jsonb_array_elements_text(tags_json) with ordinality as t (tag, place)) as tags
      from unnest(
        event_streams[run_from:to_event], event_versions[run_from:to_event],
        kind_ids[run_from:to_event], ids[run_from:to_event], occurred[run_from:to_event],
        correlation_ids[run_from:to_event], causation_ids[run_from:to_event],
        command_ids[run_from:to_event], actors[run_from:to_event], metadatas[run_from:to_event],
        event_tags_json[run_from:to_event], datas[run_from:to_event])
        with ordinality as given (stream, version, kind_id, id, occurred_at, correlation_id,
          causation_id, command_id, actor, metadata, tags_json, data, n)
      where version is not null
    ), recorded as (
      insert into events
      select position, name, version, kind_id, id, run_at, occurred_at, correlation_id,
        causation_id, command_id, actor, metadata, tags, data
      from batch
    )
    insert into event_tags
    select tag, position, kind_id from batch cross join unnest(tags) as tag;
    -- Places in the run become positions.
    for i in judged_before + 1 .. judged loop
      firsts[i] := run_first + firsts[i];
    end loop;
  end loop;
  perform set_config('lock_timeout', callers_timeout, true);
  select coalesce(max(position), 0) into last from events;
end $$;
-- For the owner, and for whom the owner lets append.
revoke execute on function append from public;
