-- The last position recorded at or before a moment, by bisection: times do not decrease with it.
create function position_at(us bigint, head bigint) returns bigint language plpgsql stable
set search_path from current as $$
declare
  low bigint := 0;
  high bigint := head + 1;
  middle bigint;
  event record;
begin
  while high - low > 1 loop
    middle := (low + high) / 2;
    select position, recorded_at into event from events
    where position <= middle order by position desc limit 1;
    if event.recorded_at is null or event.recorded_at <= us then
      low := middle;
    else
      high := event.position;
    end if;
  end loop;
  return low;
end $$;
