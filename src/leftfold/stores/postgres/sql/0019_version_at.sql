-- The version of a stream at a position, by bisection: versions and positions rise together, but no
-- index has both.
create function version_at(name text, at bigint) returns bigint language plpgsql stable
set search_path from current as $$
declare
  low bigint := 0;
  high bigint := 0;
  middle bigint;
  found_at bigint;
begin
  select version, position into high, found_at from events
  where stream = name order by version desc limit 1;
  if high is null or found_at <= at then
    return coalesce(high, 0);
  end if;
  while low < high loop
    middle := (low + high + 1) / 2;
    select position into found_at from events where stream = name and version = middle;
    if found_at <= at then
      low := middle;
    else
      high := middle - 1;
    end if;
  end loop;
  return low;
end $$;
