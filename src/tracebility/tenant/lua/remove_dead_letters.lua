-- Delete dead letters; those already deleted are not subtracted again. O(entries).
--
-- KEYS  1 dead-letter stream, 2 hash: org -> bytes of dead letters
-- ARGV  for each entry: id, org ('' if unknown), bytes
-- Returns the number of entries deleted.
local deleted = 0
for at = 1, #ARGV, 3 do
    if redis.call('XDEL', KEYS[1], ARGV[at]) == 1 then
        deleted = deleted + 1
        if ARGV[at + 1] ~= '' and redis.call('HINCRBY', KEYS[2], ARGV[at + 1], -ARGV[at + 2]) <= 0 then
            redis.call('HDEL', KEYS[2], ARGV[at + 1])
        end
    end
end
return deleted
