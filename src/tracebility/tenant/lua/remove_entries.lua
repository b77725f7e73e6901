-- Acknowledge and delete entries of a stream, and remove their envelopes from `in_flight`. O(entries + envelopes).
--
-- KEYS  1 the stream, then for each envelope: its `accepted` hash, its `in_flight` hash
-- ARGV  1 consumer group, 2 number of entries, then their ids, then for each envelope: id, hour, items, 1 if another of
--       its entries counts in the ledger, and `entry_id`: the entry being removed, empty if there is none
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
    -- An entry that no longer exists was removed from the ledger by an earlier call, whose answer was lost, or by another
    -- worker. The envelope in flight now belongs to another of its entries.
    if entry == '' or deleted[entry] then
        local was_in_flight = redis.call('HDEL', in_flight, ARGV[at]) == 1
        local counts_elsewhere = ARGV[at + 3] == '1'
        -- The writer died before it recorded the envelope, or another entry of the envelope was removed first.
        if not was_in_flight and not counts_elsewhere then
            redis.call('HINCRBY', accepted, ARGV[at + 1], ARGV[at + 2])
        elseif was_in_flight and counts_elsewhere then
            redis.call('HINCRBY', accepted, ARGV[at + 1], -ARGV[at + 2])
        end
    end
end
return 1
