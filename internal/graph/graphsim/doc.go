// Package graphsim is a simulated Microsoft Entra token endpoint and a
// simulated Microsoft Graph (Intune devices) in one server, over real TLS with
// HTTP/2 and HTTP/1.1. It is for tests and for the sandbox: it keeps count of
// every reset it executed, tells "executed" apart from "answered", and notes
// what a correct client never does.
//
// A Graph call is settled at the moment it arrives: it is refused, or it is
// executed. [Config.Latency] passes after that, so a client that gives up
// while it waits has an executed reset without an answer.
//
// # Faults by device id
//
// Every GUID is a device. A device id of the form
//
//	dead<CODE>-<TIMES>-<VARIANT>-xxxx-xxxxxxxxxxxx
//
// misbehaves. CODE, TIMES and VARIANT are four decimal digits each, the rest
// are any hexadecimal digits that make the id unique. TIMES is how many POSTs
// for that device get the fault before it behaves well; 0000 means all of
// them. [FaultDevice] builds such an id, [GoodDevice] one without a fault.
//
// CODE 0200 to 0599 is the HTTP status of the answer:
//
//	CODE        VARIANT  meaning
//	0429, 0503  0000     refused, no Retry-After
//	            0001     refused, Retry-After: 1
//	            0002     refused, Retry-After: 0.9
//	            0003     refused, Retry-After is an HTTP-date 2 s ahead (rounded up)
//	            0004     refused, Retry-After: 86400
//	0401        0000     refused, no new token cures it
//	            0001     refused, with a claims challenge
//	0404        0000     the device is unknown, to GET as well
//	0408, 05xx  0000     not executed
//	            0001     executed before the error is sent
//	02xx, 03xx  as 05xx; a 3xx carries a Location that must not be followed
//	other 04xx  0000     refused
//	any         0008     refused or not executed, the answer has no body
//	            0009     refused or not executed, the body is HTML
//
// CODE from 0601 is a fault of the transport:
//
//	0601  connection cut after the request was read, before execution
//	0602  executed, then the connection is cut: the reply is lost
//	0603  executed, then silence until the client leaves
//	0604  silence until the client leaves, not executed
//	0605  executed, answered with 204 after 2 s
//
// A cut is a TCP reset, which takes all calls on that connection with it;
// VARIANT 0001 of 0601 and 0602 resets the HTTP/2 stream only (over HTTP/1.1
// it closes the connection).
//
// CODE 0701 and 0702 cut the stream of each POST that meets the fault, 0702
// after execution, so that the device is looked up; VARIANT says what its list
// of actions shows for as long as the device lives, or until [Sim.ShowActions]:
//
//	0000  as ever
//	0001  a rename, too, typed as a reset, with the new name as the passcode
//	0002  many other actions, too, some without a type
//	0003  older resets, too, out of order
//	0004  dates of a reset: null
//	0005  dates of a reset: 0001-01-01T00:00:00Z
//	0006  dates of a reset: unreadable
//	0007  null in place of the list
//	0008  no list
//	0009  a reset only 5 s after it was executed
//	0010  a reset under a name that nobody knows
//
// With 0004 to 0006 and 0010 there is an entry of a reset even where none was
// executed. Any other CODE is no fault.
//
// For example dead0429-0002-0001-0000-000000000007 answers its first two POSTs
// with 429 and Retry-After: 1, and dead0602-0001-0000-0000-000000000007
// executes its first POST and cuts the connection.
//
// GET /deviceManagement/managedDevices?$top=1&$select=id lists one device to
// whoever may read.
//
// # Faults of the whole system
//
// [Sim.SetOutage] puts an [Outage] in force for everybody,
// [Sim.SetTenantOutage] for one tenant; with [OutageNoLicence] (no-licence) and
// [OutageWrongPath] (wrong-path) it refuses every call, whatever the device; [Sim.RevokeTokens] makes every token
// issued so far worthless; [Sim.SetQuota] changes what is granted.
//
// # By hand
//
// The server listens on a loopback address only, so these need no token:
//
//	GET  /_sim/status
//	POST /_sim/outage?kind=503&for=20s    kinds: see Outage.String; kind=none ends it; tenant=… for one tenant
//	POST /_sim/revoke                     challenge=1 adds a claims challenge
//
// An outage of kind refuse needs a time, because nothing can be told to a
// server that is not listening.
package graphsim
