-- Which of these files the schema has: the mark that it is a log of leftfold, and its version.
create table leftfold_migrations (
  number integer primary key,
  name text not null,
  applied_at timestamptz not null default clock_timestamp()
);
