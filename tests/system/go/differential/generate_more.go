package main

// Watches, leases, and the services for administrators.

import (
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Each stream belongs to one client.
const nStreams = 3

// ---- Watch

func (g *generator) watch() {
	stream := 1 + g.IntN(nStreams)
	s := g.add(callWatch, nil)
	s.stream, s.client = stream, stream%nClients
	switch n := g.IntN(20); {
	case n < 10:
		s.request = &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: g.watchCreate(stream)}}
	case n < 15:
		id := g.Int64N(4)
		if len(g.ids[stream]) > 0 && !g.one(5) {
			id = pick(g, g.ids[stream]...)
		} else if g.one(3) {
			id = pick(g, int64(-1), 99, math.MaxInt64)
		}
		s.request = &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
	case n < 19:
		s.request = &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	case g.one(3):
		s.call = callWatchClose
	default:
		s.request = &pb.WatchRequest{} // nothing is asked for
	}
}

// largeEvents makes more events than go into a response, for a watch that wants fragments and one that does not.
func (g *generator) largeEvents() {
	for _, key := range []string{"a", "b", "a", "b"} {
		put := &pb.PutRequest{Key: []byte(key), Value: large(400000 + g.IntN(700000))}
		g.add("KV/Put", put)
	}
	if g.one(2) {
		g.add("KV/Txn", &pb.TxnRequest{Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a"), Value: large(700000)}}},
			{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("b"), Value: large(700000)}}}}})
	}
	for _, fragment := range []bool{true, false} {
		s := g.add(callWatch, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
			Key: []byte("a"), RangeEnd: []byte("c"), StartRevision: baseRevision + 1 + g.Int64N(3), PrevKv: true, Fragment: fragment}}})
		s.stream = nStreams + 1
		s.client = s.stream % nClients
	}
	s := g.add("KV/RangeStream", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	s.client = 0
}

func (g *generator) watchCreate(stream int) *pb.WatchCreateRequest {
	r := &pb.WatchCreateRequest{Key: g.key(), PrevKv: g.one(2), ProgressNotify: g.one(4), Fragment: g.one(4)}
	r.RangeEnd = g.span(r.Key)
	if g.one(3) {
		r.Key, r.RangeEnd = []byte{0}, []byte{0}
	}
	switch g.IntN(8) {
	case 0, 1, 2:
		r.StartRevision = baseRevision + g.Int64N(g.revisions+1)
	case 3:
		r.StartRevision = baseRevision + g.compacted + g.Int64N(3) - 1
	case 4:
		r.StartRevision = baseRevision + g.revisions + g.Int64N(6)
	case 5:
		r.StartRevision = pick(g, int64(-1), 1, math.MaxInt64, math.MinInt64)
	}
	for range pick(g, 0, 0, 0, 1, 1, 2) {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_FilterType(g.IntN(2)))
	}
	if g.one(30) {
		r.Filters = append(r.Filters, 7)
	}
	if g.one(3) {
		r.WatchId = pick(g, int64(1), 2, 5, 100, -2, -1, math.MaxInt64, math.MinInt64)
	}
	id := r.WatchId
	if id == 0 {
		id = g.nextID[stream]
		g.nextID[stream]++
	}
	g.ids[stream] = append(g.ids[stream], id)
	return r
}

// ---- Lease

func (g *generator) lease() {
	switch g.IntN(10) {
	case 0, 1, 2:
		g.grant()
	case 3, 4:
		g.add("Lease/LeaseRevoke", &pb.LeaseRevokeRequest{ID: g.leaseID()})
		g.wrote()
	case 5, 6:
		g.add("Lease/LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: g.leaseID(), Keys: !g.one(3)})
	case 7:
		g.add("Lease/LeaseLeases", &pb.LeaseLeasesRequest{})
	default:
		s := g.add(callKeepAlive, &pb.LeaseKeepAliveRequest{ID: g.leaseID()})
		s.stream = 1 + g.IntN(2)
		s.client = s.stream
		if g.one(10) {
			s.call, s.request = callKeepAliveClose, nil
		}
	}
}

func (g *generator) grant() {
	r := &pb.LeaseGrantRequest{TTL: pick(g, int64(100), 200, 500, 1000, 9000000000, 100000)}
	if g.one(8) {
		r.TTL = pick(g, int64(9000000001), math.MaxInt64)
	}
	if g.one(2) {
		r.ID = pick(g, int64(1), 1, 2, 3, 77, -1, math.MinInt64, math.MaxInt64)
	}
	// A time that is too short may be over while the program runs: it is revoked at once.
	short := g.one(8)
	if short {
		r.TTL = pick(g, int64(0), 1, 2, -1, -5, 3, math.MinInt64)
	}
	s := g.add("Lease/LeaseGrant", r)
	id := r.ID
	if id == 0 {
		g.slots++
		s.slot = g.slots
		id = firstSlot + int64(s.slot)
	}
	if short {
		g.add("Lease/LeaseRevoke", &pb.LeaseRevokeRequest{ID: id})
		return
	}
	g.leases = append(g.leases, id)
}

// expiry lets a lease run out.
func (g *generator) expiry() {
	g.slots++
	s := g.add("Lease/LeaseGrant", &pb.LeaseGrantRequest{TTL: pick(g, int64(1), 2, 3)})
	s.slot = g.slots
	id := firstSlot + int64(s.slot)
	for range g.IntN(4) {
		put := g.put()
		put.Lease, put.IgnoreLease = id, false
		g.add("KV/Put", put)
		g.wrote()
	}
	g.add(callWait, &pb.LeaseTimeToLiveRequest{ID: id, Keys: g.one(2)})
	g.wrote()
	g.add("KV/Range", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
}

// ---- Maintenance, Cluster, Auth

func (g *generator) maintenance() {
	switch g.IntN(9) {
	case 0, 1:
		g.add("Maintenance/HashKV", &pb.HashKVRequest{Revision: pick(g, 0, g.revision(), g.revision())})
	case 2:
		g.add("Maintenance/Hash", &pb.HashRequest{})
	case 3:
		g.add("Maintenance/Status", &pb.StatusRequest{})
	case 4:
		g.add("Maintenance/Defragment", &pb.DefragmentRequest{})
	case 5:
		g.add("Maintenance/MoveLeader", &pb.MoveLeaderRequest{TargetID: pick(g, 0, 5, memberID)})
	case 6:
		g.add("Maintenance/Downgrade", &pb.DowngradeRequest{
			Action: pick(g, pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_CANCEL, pb.DowngradeRequest_ENABLE, 7), Version: pick(g, "", "3.5", "3.7", "3.8.0", "x", "v3.5.0")})
	case 7:
		g.add(callSnapshot, &pb.SnapshotRequest{})
	default:
		g.alarm()
	}
}

func (g *generator) alarm() {
	kinds := []pb.AlarmType{pb.AlarmType_NONE, pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT, 9}
	r := &pb.AlarmRequest{Action: pick(g, pb.AlarmRequest_GET, pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE), MemberID: pick(g, 0, memberID, memberID, 7), Alarm: pick(g, kinds...)}
	g.add("Maintenance/Alarm", r)
	if r.Action == pb.AlarmRequest_ACTIVATE && !g.one(3) {
		// A little under the alarm, and on.
		for range g.IntN(5) {
			underAlarm(g)(g)
		}
		g.add("Maintenance/Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: r.MemberID, Alarm: r.Alarm})
	}
}

func underAlarm(g *generator) func(*generator) {
	return pick(g,
		func(g *generator) { g.add("KV/Put", g.put()) },
		func(g *generator) { g.add("KV/Txn", g.txn()) },
		func(g *generator) { g.add("KV/DeleteRange", g.deleteRange()) },
		func(g *generator) { g.add("KV/Range", g.rangeRequest()) },
		(*generator).compact, (*generator).lease, (*generator).watch)
}

func (g *generator) cluster() {
	switch g.IntN(8) {
	case 0, 1:
		g.add("Cluster/MemberList", &pb.MemberListRequest{Linearizable: g.one(2)})
	case 2:
		g.add("Cluster/MemberRemove", &pb.MemberRemoveRequest{ID: pick(g, uint64(0), 5)})
	case 3:
		g.add("Cluster/MemberUpdate", &pb.MemberUpdateRequest{ID: 5, PeerURLs: pick(g, nil, []string{"http://1.2.3.4:5"}, []string{"bad"})})
	case 4:
		g.add("Cluster/MemberPromote", &pb.MemberPromoteRequest{ID: pick(g, uint64(0), 5)})
	case 5:
		g.add("Auth/AuthStatus", &pb.AuthStatusRequest{})
	case 6:
		g.add("Auth/Authenticate", &pb.AuthenticateRequest{Name: pick(g, "", "root", "u"), Password: pick(g, "", "p")})
	default:
		name := pick(g, "", "root", "u")
		switch g.IntN(5) {
		case 0:
			g.add("Auth/UserList", &pb.AuthUserListRequest{})
		case 1:
			g.add("Auth/RoleList", &pb.AuthRoleListRequest{})
		case 2:
			g.add("Auth/UserGet", &pb.AuthUserGetRequest{Name: name})
		case 3:
			g.add("Auth/RoleGet", &pb.AuthRoleGetRequest{Role: name})
		default:
			g.add("Auth/UserGrantRole", &pb.AuthUserGrantRoleRequest{User: name, Role: pick(g, "", "root", "r")})
		}
	}
}
