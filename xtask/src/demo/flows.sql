-- What one observer recorded, in the order of the connections' starts.
select
    strftime(make_timestamp(epoch_us(start_time)), '%H:%M:%S.%g') as "start (UTC)",
    proto_name as proto,
    src_ip || coalesce(' :' || src_port, '') as source,
    dst_ip || coalesce(' :' || dst_port, '') as destination,
    nullif(concat_ws(', ',
        'from ' || nat_src_ip || coalesce(' :' || nat_src_port, ''),
        'to ' || nat_dst_ip || coalesce(' :' || nat_dst_port, '')), '') as nat,
    orig_packets || ' / ' || orig_bytes as "sent packets / bytes",
    reply_packets || ' / ' || reply_bytes as "received",
    coalesce(ct_state, end_reason) as state,
    concat_ws(' ', src_pid, src_comm, src_exe) as "source process",
    concat_ws(' ', dst_pid, dst_comm, dst_exe) as "destination process",
from read_parquet('{files}', hive_partitioning = true)
order by start_time
