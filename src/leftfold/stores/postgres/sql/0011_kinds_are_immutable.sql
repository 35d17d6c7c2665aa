create trigger kinds_are_immutable before update or delete or truncate on kinds
  for each statement execute function refuse_change();
