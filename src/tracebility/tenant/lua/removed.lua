-- Note that data of an org was removed now: marks of bodies that are older stand for data that may be gone. O(1).
--
-- KEYS  1 the time of the last removal
-- ARGV  1 how long the note is needed, in milliseconds
local time = redis.call('TIME')
redis.call('SET', KEYS[1], string.format('%.0f', time[1] * 1000000 + time[2]), 'PX', ARGV[1])
return 1
