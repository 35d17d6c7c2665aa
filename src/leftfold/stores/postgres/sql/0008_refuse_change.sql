create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception 'events are immutable: append a correcting event instead'
    using errcode = 'restrict_violation';
end $$;
