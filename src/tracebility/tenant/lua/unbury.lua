-- Delete entries of the dead letters; one that is gone already is counted no more. O(entries).
--
-- KEYS  1 the dead letters, 2 bytes of dead letters by org
-- ARGV  of each entry: its id, its org, '' where it cannot be told, its bytes
-- Answers how many there were.
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
