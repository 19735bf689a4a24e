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
// executed. CODE 0800 to 0899 is a story, see below; any other CODE is no fault.
//
// For example dead0429-0002-0001-0000-000000000007 answers its first two POSTs
// with 429 and Retry-After: 1, and dead0602-0001-0000-0000-000000000007
// executes its first POST and cuts the connection.
//
// GET /deviceManagement/managedDevices?$top=1&$select=id lists one device to
// whoever may read.
//
// # What a device does
//
// Each device plays a [Story] from the first reset that is executed. The default
// is an Android device of the company's that is online: it takes each order at
// once and has done it a second later. [Sim.SetStory] gives a device another one;
// so does an id of the form
//
//	dead08<SS>-<TTTT>-<PPOE>-xxxx-xxxxxxxxxxxx
//
// with SS for the story, TTTT for its time in seconds, and PP, O and E for the
// platform, the owner and the enrolment. A POST for it is answered with 204.
// [StoryDevice] and [StoryVariant] build such an id, and [Told] tells what its
// reset must come to.
//
//	SS  story, with its time T                                    told
//	00  done, T after it was ordered                              done
//	01  failed after T, errorCode -2147023728                     failed
//	02  notSupported after T                                      not_supported
//	03  canceled after T                                          canceled
//	04  pending for ever                                          timed_out
//	05  offline until T, done 1 s later                           done
//	06  offline for ever                                          timed_out
//	07  wiped: wipePending at T, 404 at twice T                   removed
//	08  retired likewise                                          removed
//	09  removed at T: 404                                         removed
//	10  done after T, but 404 to the first read after the order   done
//	11  enrolled anew at T, as 600d0000-0000-4000-8000-…: 404     removed
//	12  done after T, but never shown                             timed_out
//	13  done after 1 s, and reset by somebody else at T           done
//	14  reset by somebody else at T, whose entry replaces ours    superseded
//	    and says that it began 10 min later than it did
//	15  pending, and its entry vanishes at T                      timed_out
//	16  awaitingAdminAction, a new word, then done after T        done
//	17  retryPending, a new word, after T and for ever            timed_out
//	18  none, then done after T                                   done
//	19  active, then done after T                                 done
//	20  done after T, with a rename at the time of each order     done
//	40… done after T, with the list of 0701's variant 00 to 10    done, or
//	    timed_out where that list leaves a doubt
//
//	PP  00 Android, 01 iOS, 02 iPadOS, 03 visionOS, 04 Windows, 05 macOS,
//	    06 Linux, 07 ChromeOS, 08 tvOS
//	O   0 company, 1 personal, 2 unknown
//	E   0 the usual one, 1 appleUserEnrollment, 2 appleUserEnrollmentWithServiceAccount
//
// A POST for PP 04 to 08 and for E 1 and 2 is refused with 400, and nothing is
// told. What is not in these lists counts as 0. For example
// dead0805-0030-0110-0000-000000000007 is somebody's own iPhone that is offline
// for half a minute.
//
// The GET of a device answers the members that are in $select. Its list always
// holds a rename, a lock and a location that began before the simulator did,
// with a name, a PIN and a place for which [Sim.Secrets] has the beginning.
// [Sim.Device] tells what a device really did.
//
// # Faults of the whole system
//
// [Sim.SetOutage] puts an [Outage] in force for everybody,
// [Sim.SetTenantOutage] for one tenant; with [OutageNoLicence] (no-licence) and
// [OutageWrongPath] (wrong-path) it refuses every call, whatever the device; [Sim.RevokeTokens] makes every token
// issued so far worthless; [Sim.SetQuota] changes what is granted; [Sim.Advance] moves the devices
// forward in their stories.
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
