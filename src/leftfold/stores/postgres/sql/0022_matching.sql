-- The first positions after `low` up to `high` of events that match an item of a query, or the last
-- ones: so many as `page` says of each item. The only place that knows what a query means.
--
-- Each statement is there in both directions, for a plan is kept only of a statement that is written
-- out. To plan anew would cost more than the rest of most appends with a condition.
create function matching(items jsonb, low bigint, high bigint, page bigint, backwards boolean)
returns setof bigint language plpgsql stable
set search_path from current
set plan_cache_mode to force_generic_plan
set enable_seqscan to off
set enable_bitmapscan to off
set jit to off as $$
declare
  item record;
  allowed integer[]; -- kinds; null: all
  tag_read text;
  after_version bigint;
  until_version bigint;
begin
  for item in
    select * from jsonb_to_recordset(items)
    as item (stream text, category text, types text[], tags text[])
  loop
    allowed := null;
    if item.category is not null or item.types is not null then
      allowed := array(
        select id from kinds
        where (item.category is null or category = item.category)
          and (item.types is null or type = any (item.types)));
    end if;
    if item.stream is not null then
      after_version := version_at(item.stream, low);
      until_version := version_at(item.stream, high);
      if backwards then
        return query
        select position from events
        where stream = item.stream and version > after_version and version <= until_version
          and (allowed is null or kind_id = any (allowed))
          and (item.tags is null or tags @> item.tags)
        order by version desc limit page;
      else
        return query
        select position from events
        where stream = item.stream and version > after_version and version <= until_version
          and (allowed is null or kind_id = any (allowed))
          and (item.tags is null or tags @> item.tags)
        order by version limit page;
      end if;
    elsif item.tags is not null then
      tag_read := item.tags[1];
      if cardinality(item.tags) > 1 then
        tag_read := rarest(item.tags, low, high);
      end if;
      if backwards then
        return query
        select position from event_tags t
        where tag = tag_read and position > low and position <= high
          and (allowed is null or kind_id = any (allowed))
          and (cardinality(item.tags) = 1 or cardinality(item.tags) = (
            select count(*) from event_tags o
            where o.tag = any (item.tags) and o.position = t.position))
        order by position desc limit page;
      else
        return query
        select position from event_tags t
        where tag = tag_read and position > low and position <= high
          and (allowed is null or kind_id = any (allowed))
          and (cardinality(item.tags) = 1 or cardinality(item.tags) = (
            select count(*) from event_tags o
            where o.tag = any (item.tags) and o.position = t.position))
        order by position limit page;
      end if;
    elsif allowed is not null then
      if backwards then
        return query
        select kind_events.position from unnest(allowed) as kind (id) cross join lateral (
          select position from events
          where kind_id = kind.id and position > low and position <= high
          order by position desc limit page) as kind_events
        order by 1 desc limit page;
      else
        return query
        select kind_events.position from unnest(allowed) as kind (id) cross join lateral (
          select position from events
          where kind_id = kind.id and position > low and position <= high
          order by position limit page) as kind_events
        order by 1 limit page;
      end if;
    elsif backwards then
      return query
      select position from events where position > low and position <= high
      order by position desc limit page;
    else
      return query
      select position from events where position > low and position <= high
      order by position limit page;
    end if;
  end loop;
end $$;
