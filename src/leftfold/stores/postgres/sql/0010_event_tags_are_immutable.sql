create trigger event_tags_are_immutable before update or delete or truncate on event_tags
  for each statement execute function refuse_change();
