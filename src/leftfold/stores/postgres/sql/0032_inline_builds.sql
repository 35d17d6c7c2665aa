-- The builds of inline projections, by name: every append keeps all of them up to date, or is refused.
create table inline_builds (
  name text primary key,
  build bigint not null
);
