-- States of deciders, kept so that loads are short. A cache: it may be emptied at any time. A key may
-- be longer than an index takes, so the index has its hash.
create table snapshots (
  key_hash uuid not null,
  key text not null,
  fingerprint text not null,
  version bigint not null,
  position bigint not null,
  event_id bytea not null,
  recorded_at bigint not null, -- microseconds since 1970
  data bytea not null,
  taken bigint generated always as identity,
  primary key (key_hash, fingerprint, version)
);
