-- Acknowledge and delete entries of a stream, and take their envelopes out of flight. O(entries + envelopes).
--
-- KEYS  1 the stream, then of each envelope: accepted, in flight
-- ARGV  1 the group, 2 how many entries, then their ids, then of each envelope: id, hour, items, 1 when it counts for
--       another of its entries, and the id of the one that it leaves with, '' for none
local entries = tonumber(ARGV[2])
local deleted = {}
for at = 3, entries + 2 do
    redis.call('XACK', KEYS[1], ARGV[1], ARGV[at])
    deleted[ARGV[at]] = redis.call('XDEL', KEYS[1], ARGV[at]) == 1
end
for at = entries + 3, #ARGV, 5 do
    local nth = (at - entries - 3) / 5
    local accepted, in_flight = KEYS[nth * 2 + 2], KEYS[nth * 2 + 3]
    local entry = ARGV[at + 4]
    -- An entry that is gone has left the books with whoever took it away: the same call before, whose answer was lost, or
    -- another worker's. What is in flight now is there for another entry of the envelope.
    if entry == '' or deleted[entry] then
        local was_in_flight = redis.call('HDEL', in_flight, ARGV[at]) == 1
        local counts_elsewhere = ARGV[at + 3] == '1'
        -- Its writer died before it was entered, or another of its entries left first.
        if not was_in_flight and not counts_elsewhere then
            redis.call('HINCRBY', accepted, ARGV[at + 1], ARGV[at + 2])
        elseif was_in_flight and counts_elsewhere then
            redis.call('HINCRBY', accepted, ARGV[at + 1], -ARGV[at + 2])
        end
    end
end
return 1
