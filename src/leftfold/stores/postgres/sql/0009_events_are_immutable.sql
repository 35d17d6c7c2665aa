create trigger events_are_immutable before update or delete or truncate on events
  for each statement execute function refuse_change();
