package check

import "strings"

// Hint explains an error of Microsoft's to a person. Only check uses it, and no
// decision of the worker depends on it: codes and texts change without notice.
// Sources: Microsoft's "Microsoft Entra authentication and authorization error
// codes", and public reports of what Graph and Intune answer.
type Hint struct {
	// Says is what to look for in the error, without regard to case.
	Says string
	// Means is the usual cause, and Do what to do about it.
	Means, Do string
	// Everybody reports whether the answer has nothing to do with the device that was
	// asked for, so that every other call gets it, too.
	Everybody bool
}

// Hints lists them all, the more exact ones first. docs/runbook.md holds the same
// table.
func Hints() []Hint {
	const registration = "the application's registration"
	return []Hint{
		// The credential.
		{Says: "AADSTS7000215", Means: "the client secret is not one of the application's; often someone has given the secret's id instead of its value",
			Do: "give the secret's value, which Entra shows once, when the secret is made"},
		{Says: "AADSTS7000222", Means: "the client secret has expired", Do: "make a new one in " + registration + " and replace the old one; if it is in a file, no restart is needed"},
		{Says: "AADSTS700027", Means: "the certificate is not one of the application's, or has expired",
			Do: "add the certificate to " + registration + ", or use the file of a certificate that is registered there"},
		{Says: "AADSTS700024", Means: "the token or the signed proof is not valid at this time: a federated token was not renewed, or a clock is wrong",
			Do: "make sure that the federated token's file is replaced in time, and that this machine's clock is right"},
		{Says: "AADSTS700211", Means: "the application does not trust the issuer of the federated token", Do: "compare the issuer in its federated credential with the cluster's issuer"},
		{Says: "AADSTS700212", Means: "the federated token is for another audience", Do: "the audience must be api://AzureADTokenExchange in the token and in the federated credential"},
		{Says: "AADSTS700213", Means: "no federated credential of the application is for this service account",
			Do: "compare the subject in the credential, like system:serviceaccount:NAMESPACE:NAME, with the pod's; a new credential takes some minutes to work"},
		{Says: "AADSTS70021", Means: "no federated credential of the application matches the token",
			Do: "compare the issuer, subject and audience of the credential with those of the token; a new credential takes some minutes to work"},
		{Says: "AADSTS50012", Means: "the signature of the proof cannot be checked: the key is not that of the registered certificate",
			Do: "add the certificate to " + registration},

		// The application and the directory.
		{Says: "AADSTS700016", Means: "the directory does not know the application: AZURE_CLIENT_ID or AZURE_TENANT_ID is wrong, admin consent is missing there, or it is in another cloud",
			Do: "compare both ids with " + registration + ", give admin consent in that directory, and check GRAPH_CLOUD"},
		{Says: "AADSTS7000229", Means: "the application has no service principal in this directory", Do: "ask an administrator of that directory to consent to the application"},
		{Says: "AADSTS7000112", Means: "the application is disabled in this directory", Do: "enable sign-in in the properties of its enterprise application"},
		{Says: "AADSTS90002", Means: "there is no such directory in this cloud", Do: "compare AZURE_TENANT_ID with the directory's overview, and check GRAPH_CLOUD"},
		{Says: "AADSTS900023", Means: "the directory's id is neither a GUID nor a domain", Do: "give the directory's GUID in AZURE_TENANT_ID"},
		{Says: "AADSTS900382", Means: "the application belongs to another cloud", Do: "set GRAPH_CLOUD to the cloud of the registration, or register the application in this cloud"},
		{Says: "AADSTS500011", Means: "the directory does not know Graph at this address: it belongs to another cloud", Do: "set GRAPH_CLOUD to the directory's cloud"},

		// Policies and limits.
		{Says: "AADSTS53003", Means: "a Conditional Access policy blocks the application, usually because of the address it calls from",
			Do: "allow this machine's outgoing address in the policy for workload identities"},
		{Says: "AADSTS50196", Means: "the application has requested the same token too often and is blocked for a while",
			Do: "look for other programs that use the same AZURE_CLIENT_ID and for a restart loop; wait some minutes"},
		{Says: "AADSTS90033", Means: "the token service has a fault", Do: "wait; check the service health of Microsoft 365"},

		// Graph: errors that concern every call.
		{Says: "Request not applicable to target tenant", Means: "the tenant has no Intune, or its licence has lapsed", Do: "check the tenant's licences, and that AZURE_TENANT_ID is the tenant of the devices",
			Everybody: true},
		{Says: "Error authenticating with resource", Means: "Intune does not let Graph in for this tenant", Do: "check the tenant's Intune licence and the service health; then ask Microsoft and give them the request id",
			Everybody: true},
		{Says: "Invalid version", Means: "the root of Graph is wrong: it has a path", Do: "set GRAPH_ENDPOINT to the address without a path, or remove it", Everybody: true},
		{Says: "Resource not found for the segment", Means: "the address is not Graph's, or this cloud's Graph lacks the route", Do: "check GRAPH_ENDPOINT and GRAPH_CLOUD; remove GRAPH_ENDPOINT if you can",
			Everybody: true},
		{Says: "Invalid audience", Means: "the token is for another cloud's Graph", Do: "set GRAPH_CLOUD to the directory's cloud; GRAPH_ENDPOINT must be of the same cloud", Everybody: true},
		{Says: "does not have application permissions configured", Means: "no application permission of Graph has been granted",
			Do: "grant the application permissions listed in docs/install.md (not delegated ones), and give admin consent", Everybody: true},
		{Says: "Application must have one of the following scopes", Means: "the application lacks the permission that the text names",
			Do: "grant it as an application permission, and give admin consent", Everybody: true},
		{Says: "Authorization_RequestDenied", Means: "the application lacks a permission", Do: "grant the application permissions listed in docs/install.md, and give admin consent", Everybody: true},

		// Graph: errors that concern one request.
		{Says: "User id must be in the form of Guid", Means: "Intune accepts only an object id as userId, not a name",
			Do: "publish the user's object id in userId, or the device only, as Microsoft's portal does"},
		{Says: "No method match route template", Means: "Intune does not serve this route", Do: "publish the device only, without userId and detectedAppId"},
		{Says: "ApprovalRequired", Means: "Multi Admin Approval guards this action: a second administrator would have to approve each reset",
			Do: "exclude the application from that access policy, or reset such devices by hand"},
	}
}

// explain finds the hint for an error's text.
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
