-- The index by tag. It carries the kind, so that a boundary over tags and types reads it alone.
create table event_tags (
  tag text not null,
  position bigint not null,
  kind_id integer not null,
  primary key (tag, position) include (kind_id)
);
