-- Keep a snapshot, and of its key the latest and the `kept_max` that were taken last.
create function keep_snapshot(
  key text, fingerprint text, version bigint, at bigint, event_id bytea, recorded bigint, data bytea,
  kept_max integer
) returns void language sql security definer
set search_path from current as $$
  insert into snapshots
  values (md5(key)::uuid, key, fingerprint, version, at, event_id, recorded, data)
  on conflict (key_hash, fingerprint, version) do update
  set position = excluded.position, event_id = excluded.event_id,
    recorded_at = excluded.recorded_at, data = excluded.data;
  delete from snapshots
  where key_hash = md5(keep_snapshot.key)::uuid and taken <= (
    select taken from snapshots where key_hash = md5(keep_snapshot.key)::uuid
    order by taken desc offset kept_max limit 1)
  and version < (
    select max(version) from snapshots where key_hash = md5(keep_snapshot.key)::uuid);
$$;
-- For the owner, and for whom the owner lets keep snapshots.
revoke execute on function keep_snapshot from public;
