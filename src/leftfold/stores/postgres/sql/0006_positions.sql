-- The last position that was handed out. Only `alloc` may draw from it.
create sequence positions minvalue 0 cache 1;
select setval('positions', 0);
