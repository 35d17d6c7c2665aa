-- Of some tags the one with the fewest events in a span, as far as a small sample tells.
create function rarest(tags text[], low bigint, high bigint) returns text language sql stable
set search_path from current as $$
  select tag from unnest(tags) as t (tag)
  order by (
    select count(*) from (
      select from event_tags e
      where e.tag = t.tag and e.position > low and e.position <= high limit 1000) as sample)
  limit 1
$$;
