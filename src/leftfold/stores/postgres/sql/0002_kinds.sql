-- A kind is a category, a type and a schema version: one small index then answers queries by
-- category and by type. There are few, and they never change.
create table kinds (
  id integer generated always as identity primary key,
  type text not null,
  category text not null,
  schema_version integer not null,
  unique (type, category, schema_version)
);
