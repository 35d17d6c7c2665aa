create index events_by_kind on events (kind_id, position);
