-- Drop a snapshot that is of no use, as its event is not in the log.
create function drop_snapshot(key text, fingerprint text, version bigint) returns void
language sql security definer
set search_path from current as $$
  delete from snapshots
  where key_hash = md5(drop_snapshot.key)::uuid and snapshots.key = drop_snapshot.key
    and snapshots.fingerprint = drop_snapshot.fingerprint
    and snapshots.version = drop_snapshot.version;
$$;
-- For the owner, and for whom the owner lets keep snapshots.
revoke execute on function drop_snapshot from public;
