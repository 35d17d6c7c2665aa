-- The first of some conditions that does not hold (from 1 on; null: all hold), and what was found
-- instead. Its number is negative where it names a position that the log, which ends at `actual`, has
-- not reached. `versions` are those of the streams that conditions refer to.
create function judge(conditions jsonb, versions bigint[], out failed integer, out actual bigint)
language plpgsql volatile
set search_path from current as $$
declare
  condition jsonb;
  after bigint;
  last bigint;
begin
  for i in 1 .. jsonb_array_length(conditions) loop
    failed := i;
    condition := conditions -> i - 1;
    if condition ? 'version' then
      actual := versions[(condition ->> 'stream')::integer];
      if actual <> (condition ->> 'version')::bigint then
        return;
      end if;
      continue;
    end if;
    after := (condition ->> 'after')::bigint;
    select coalesce(max(position), 0) into last from events;
    if after > last then
      failed := -i;
      actual := last;
      return;
    end if;
    select min(position) into actual
    from matching(condition -> 'items', after, last, 1, false) as position;
    if actual is not null then
      return;
    end if;
  end loop;
  failed := null;
  actual := null;
end $$;
