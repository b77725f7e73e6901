-- Record that data of an org was removed now, which invalidates older marks of bodies. O(1).
--
-- KEYS  1 time of the last removal
-- ARGV  1 life of the key in milliseconds
local time = redis.call('TIME')
redis.call('SET', KEYS[1], string.format('%.0f', time[1] * 1000000 + time[2]), 'PX', ARGV[1])
return 1
