package check

import "strings"

// Hint explains words of Microsoft's to a person. It decides nothing but what
// check says: codes and texts change without notice.
// Sources: Microsoft's "Microsoft Entra authentication and authorization error
// codes", and public reports of what Graph and Intune answer.
type Hint struct {
	// Says is what to look for in the error, without regard to case.
	Says string
	// Means is the usual cause, and Do what to do about it.
	Means, Do string
	// Everybody tells that the answer has nothing to do with the device that was
	// asked for: every other call would get it, too.
	Everybody bool
}

// Hints are all of them, those that are more exact first. docs/runbook.md holds
// the same table.
func Hints() []Hint {
	const registration = "the application's registration"
	return []Hint{
		// The credential.
		{Says: "AADSTS7000215", Means: "the client secret is not one of the application's; often its id was given in place of its value",
			Do: "give the secret's value, which Entra shows once, when the secret is made"},
		{Says: "AADSTS7000222", Means: "the client secret has expired", Do: "make a new one in " + registration + " and replace it; a file needs no restart"},
		{Says: "AADSTS700027", Means: "the certificate is not one of the application's, or has expired",
			Do: "add the certificate to " + registration + ", or replace the file by that of one that is there"},
		{Says: "AADSTS700024", Means: "the token or the signed proof is not valid at this time: a federated token that was not renewed, or a clock that is wrong",
			Do: "see that the federated token's file is replaced in time, and set this machine's clock"},
		{Says: "AADSTS700211", Means: "the application does not trust the issuer of the federated token", Do: "compare the issuer of its federated credential with that of the cluster"},
		{Says: "AADSTS700212", Means: "the federated token is for another audience", Do: "the audience must be api://AzureADTokenExchange in the token and in the federated credential"},
		{Says: "AADSTS700213", Means: "no federated credential of the application is for this service account",
			Do: "compare its subject, like system:serviceaccount:NAMESPACE:NAME, with the pod's; a new one needs some minutes"},
		{Says: "AADSTS70021", Means: "no federated credential of the application fits the token",
			Do: "compare issuer, subject and audience of its federated credential with the token's; a new one needs some minutes"},
		{Says: "AADSTS50012", Means: "the signature of the proof cannot be checked: the key is not that of the registered certificate",
			Do: "add the certificate to " + registration},

		// The application and the directory.
		{Says: "AADSTS700016", Means: "the directory does not know the application: a wrong AZURE_CLIENT_ID or AZURE_TENANT_ID, no admin consent there, or another cloud",
			Do: "compare both ids with " + registration + ", give admin consent in that directory, and see GRAPH_CLOUD"},
		{Says: "AADSTS7000229", Means: "the application has no service principal in this directory", Do: "let an administrator of that directory consent to the application"},
		{Says: "AADSTS7000112", Means: "the application is disabled in this directory", Do: "enable sign-in in its enterprise application's properties"},
		{Says: "AADSTS90002", Means: "there is no such directory in this cloud", Do: "compare AZURE_TENANT_ID with the directory's overview, and see GRAPH_CLOUD"},
		{Says: "AADSTS900023", Means: "the directory's id is neither a GUID nor a domain", Do: "give the directory's GUID in AZURE_TENANT_ID"},
		{Says: "AADSTS900382", Means: "the application belongs to another cloud", Do: "set GRAPH_CLOUD to that of the registration, or register it in this one"},
		{Says: "AADSTS500011", Means: "the directory does not know Graph under this address: another cloud", Do: "set GRAPH_CLOUD to the directory's cloud"},

		// Policies and limits.
		{Says: "AADSTS53003", Means: "a Conditional Access policy blocks the application, usually for the place that it calls from",
			Do: "let the policy for workload identities allow this machine's outgoing address"},
		{Says: "AADSTS50196", Means: "the application has asked for the same token too often and is shut out for a while",
			Do: "look for other programs, or restarts in a loop, under the same AZURE_CLIENT_ID; wait some minutes"},
		{Says: "AADSTS90033", Means: "the token service has a fault", Do: "wait; see the service health of Microsoft 365"},

		// Graph: what concerns every call.
		{Says: "Request not applicable to target tenant", Means: "the tenant has no Intune, or its licence has lapsed", Do: "see the tenant's licences, and whether AZURE_TENANT_ID is the tenant of the devices",
			Everybody: true},
		{Says: "Error authenticating with resource", Means: "Intune does not let Graph in for this tenant", Do: "see the tenant's Intune licence and the service health; then ask Microsoft, with the request id",
			Everybody: true},
		{Says: "Invalid version", Means: "the root of Graph is wrong: it has a path", Do: "set GRAPH_ENDPOINT to the address alone, or leave it out", Everybody: true},
		{Says: "Resource not found for the segment", Means: "the address is not Graph's, or this cloud's Graph lacks the route", Do: "see GRAPH_ENDPOINT and GRAPH_CLOUD; leave GRAPH_ENDPOINT out if you can",
			Everybody: true},
		{Says: "Invalid audience", Means: "the token is for another cloud's Graph", Do: "set GRAPH_CLOUD to the directory's cloud; GRAPH_ENDPOINT must be of the same cloud", Everybody: true},
		{Says: "does not have application permissions configured", Means: "no application permission of Graph's was consented to",
			Do: "grant the application permissions of docs/install.md, not delegated ones, and give admin consent", Everybody: true},
		{Says: "Application must have one of the following scopes", Means: "the application lacks the permission that the text names",
			Do: "grant it as an application permission, and give admin consent", Everybody: true},
		{Says: "Authorization_RequestDenied", Means: "the application lacks a permission", Do: "grant the application permissions of docs/install.md, and give admin consent", Everybody: true},

		// Graph: what concerns a request.
		{Says: "User id must be in the form of Guid", Means: "Intune wants the object id where userId is a name",
			Do: "publish the user's object id in userId, or the device alone, which is what Microsoft's portal does"},
		{Says: "No method match route template", Means: "Intune does not serve this route", Do: "publish the device alone, without userId and detectedAppId"},
		{Says: "ApprovalRequired", Means: "Multi Admin Approval guards this action: a second administrator would have to approve each reset",
			Do: "take the application out of that access policy, or reset such devices by hand"},
	}
}

// explain finds the hint for an error's words.
func explain(text string) (Hint, bool) {
	text = strings.ToLower(text)
	for _, h := range Hints() {
		says := strings.ToLower(h.Says)
		for rest := text; ; {
			i := strings.Index(rest, says)
			if i < 0 {
				break
			}
			rest = rest[i+len(says):]
			if rest == "" || rest[0] < '0' || rest[0] > '9' { // else it is a longer number
				return h, true
			}
		}
	}
	return Hint{}, false
}
