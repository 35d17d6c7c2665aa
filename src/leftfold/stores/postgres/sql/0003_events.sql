-- The log. Names of streams and tags are kept as they are: a table of names would make writers wait
-- for each other. There are no foreign keys, for each would take a row lock for each event; nobody
-- but the function `append` writes here.
create table events (
  position bigint primary key,
  stream text not null,
  version bigint not null,
  kind_id integer not null,
  id uuid not null unique,
  recorded_at bigint not null, -- microseconds since 1970
  occurred_at bigint, -- null: when it was recorded
  correlation_id text,
  causation_id text,
  command_id text,
  actor text,
  metadata text, -- the user's own keys, JSON
  tags text[], -- in the order given; null: none
  data bytea not null, -- byte for byte as given
  unique (stream, version)
);
