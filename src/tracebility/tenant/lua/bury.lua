-- Add an entry to the dead letters, once, however often it is asked for until its mark is taken away. O(1).
--
-- KEYS  1 the dead letters, 2 the marks of what was buried
-- ARGV  1 the stream and id it comes from, then its fields and their values
if redis.call('HSETNX', KEYS[2], ARGV[1], '') == 1 then
    redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
end
return 1
