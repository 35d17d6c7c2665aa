select setval('positions', 0);
