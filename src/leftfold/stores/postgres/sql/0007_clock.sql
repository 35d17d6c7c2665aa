-- The last time that was handed out, in microseconds since 1970. A sequence, because its value is
-- seen by all at once. Only `alloc` may set it.
create sequence clock minvalue 0 cache 1;
