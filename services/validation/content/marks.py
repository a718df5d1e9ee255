"""What parked, unfinished and missing pages are known by: hosts, scripts, phrases. Data only."""

# ruff: noqa: RUF001

# Domains and hosts of those that park or sell names, as seen in name servers, redirects and
# resources. What also serves ordinary sites, as a registrar's own name servers do, is not here.
# Checked against the services that TMA 2022, "Domain Parking: Largely Present, Rarely Considered",
# identifies. Collected 2026-11-22.
PARKING_DOMAINS = frozenset(
    (
        "above.com afternic.com atom.com bodis.com brandbucket.com buydomains.com "
        "cashparking.com cnomy.com comingsoon.namebright.com dan.com dan.hosting dne.com "
        "dnparking.com dnsspark.com domain-for-sale.se domain-is-4-sale-at-domainmarket.com "
        "domaincntrol.com domainist.com domainmarket.com domainparking-dnspod.cn domainprofi.de "
        "domainrecover.com dsextra.com dsredirection.com dsredirects.com efty.com eftydns.com "
        "expired.namebright.com fabulous.com fastpark.net fwdservice.com hugedomains.com "
        "ibspark.com mytrafficmanagement.com namefind.com nameprovider.net nameshift.com "
        "ndparking.com ndsplitter.com nsg1.namebrightdns.com nsg2.namebrightdns.com "
        "overdue.aliyun.com park.do park1.dynadot.com park2.dynadot.com parking-page.net "
        "parking.namecheap.com parkingcrew.com parkingcrew.net parkingpage.namecheap.com "
        "parkingspa.com parklogic.com pql.net redirectdom.com renewyourname.net rookdns.com "
        "salenames.ru searchfusion.com searchmagnified.com searchreinvented.com "
        "securetrafficrouting.com sedo.com sedo.de sedoparking.com smartname.com snparking.ru "
        "squadhelp.com sslparking.com this-domain-for-sale.com tppns.com "
        "trafficcontrolrouter.com undeveloped.com uniregistrymarket.link voodoo.com ztomy.com"
    ).split()
)
# In inline scripts, attributes of <html> and hosts; what hardly another page has.
PARKING_MARKS = (
    ("data-adblockkey", 0.8),
    ("adsense/domains/caf.js", 0.9),
    ("google.ads.domains", 0.9),
    ("parking-lander", 0.9),
    ("window.park=", 0.8),
    ("window.park =", 0.8),
    ("_parkingdata", 0.6),
    ("parkedpage", 0.6),
    ("/park.js", 0.6),
    ("d38psrni17bvxu.cloudfront.net", 0.8),
)
PARKING_PATHS = (
    "/lander",
    "/parking",
    "/parked",
    "/park/",
    "/domain_profile.cfm",
    "/mtm/",
    "/listing/",
)
# Subdomains that parking sends visitors on to: ww1.example.com, ww25.example.com.
SENT_ON = tuple(f"ww{number}." for number in range(1, 40))

# Lower case. "{name}" stands for the name itself.
SALE_PHRASES = (
    "buy this domain", "this domain is for sale", "domain is for sale", "domain for sale",
    "domain name is for sale", "this domain may be for sale", "domain may be for sale",
    "this domain name may be for sale", "make an offer on this domain",
    "inquire about this domain", "the owner of this domain is offering", "get this domain",
    "premium domain for sale", "{name} is for sale", "{name} may be for sale", "buy {name}",
    "purchase {name}", "{name} is available for purchase", "this domain is available for purchase",
    "domain steht zum verkauf", "domain zu verkaufen", "diese domain kaufen",
    "{name} steht zum verkauf", "{name} kaufen", "ce domaine est à vendre",
    "nom de domaine est à vendre", "domaine à vendre", "acheter ce domaine",
    "acheter ce nom de domaine", "{name} est à vendre", "este dominio está en venta",
    "dominio en venta", "comprar este dominio", "{name} está en venta",
    "este domínio está à venda", "domínio à venda", "{name} está à venda",
    "questo dominio è in vendita", "dominio in vendita", "{name} è in vendita",
    "acquista questo dominio", "dit domein is te koop", "domeinnaam is te koop", "domein te koop",
    "{name} is te koop", "domena na sprzedaż", "domena jest na sprzedaż", "kup tę domenę",
    "домен продается", "домен продаётся", "этот домен продается", "doména na prodej",
    "doména je na prodej", "domænet er til salg", "domänen är till salu", "satılık alan adı",
    "bu alan adı satılıktır", "satılık domain", "此域名出售", "域名出售", "此域名正在出售",
    "域名转让", "このドメインは売り出し中", "ドメイン販売", "도메인 판매",
)  # fmt: skip
PARKED_PHRASES = (
    ("this domain is parked", 0.5), ("domain is parked", 0.4), ("parked free", 0.5),
    ("parked domain", 0.3), ("domain parking", 0.25), ("this page is parked", 0.5),
    ("web page is parked", 0.5), ("webpage is parked", 0.5),
    ("parked courtesy of", 0.6), ("this domain has expired", 0.35), ("domain has expired", 0.35),
    ("this domain name expired", 0.35), ("this domain has been registered", 0.3),
    ("domain has recently been registered", 0.3), ("domain was recently registered", 0.3),
    ("is registered, but the owner currently does not have an active website", 0.6),
    ("related searches", 0.2), ("related links", 0.1), ("sponsored listings", 0.3),
    ("the domain owner maintain no relationship with the advertisers", 0.7),
    ("neither the service provider nor the domain owner maintain", 0.7),
    ("this webpage was generated by the domain owner using sedo", 0.9),
    ("diese domain ist geparkt", 0.5), ("domain geparkt", 0.4), ("domain wurde registriert", 0.3),
    ("diese webseite wurde vom domain inhaber dynamisch generiert", 0.8),
    ("domaine est parqué", 0.5), ("domaine parké", 0.4), ("dominio aparcado", 0.4),
    ("dominio estacionado", 0.4), ("dominio parcheggiato", 0.4), ("domein is geparkeerd", 0.5),
    ("domein is gereserveerd", 0.35), ("domena zaparkowana", 0.4), ("домен припаркован", 0.5),
    ("domínio estacionado", 0.4), ("このドメインは、お名前.com", 0.5), ("域名停放", 0.4),
)  # fmt: skip
DEFAULT_PHRASES = (
    "welcome to nginx", "apache2 ubuntu default page", "apache2 debian default page",
    "apache http server test page", "test page for the apache", "test page for the nginx",
    "test page for the http server", "it works!", "iis windows server", "iis7",
    "welcome to openresty", "welcome to caddy", "congratulations! your website is up and running",
    "default web site page", "domain default page", "default parallels plesk page",
    "web server's default page", "plesk default page",
    "this is the default web page for this server",
    "the web server software is running but no content has been added", "default page - cpanel",
    "future home of something quite cool", "welcome to your new website", "hosting24 default page",
    "index of /", "directadmin default", "website is not configured",
    "there is no website configured at this address", "nginx http server boilerplate",
    "the web site you are trying to reach is not available at this address", "no such app",
    "welcome to centos", "welcome to ispconfig", "litespeed web server at", "default server vhost",
    "hier entsteht eine neue internetpräsenz", "hier entsteht eine neue website",
    "your hosting is ready", "site not yet published", "account suspended",
    "this account has been suspended", "website is currently unavailable",
)  # fmt: skip
CONSTRUCTION_PHRASES = (
    "under construction", "coming soon", "launching soon", "website is being built",
    "site is being built", "we are working on our website", "our new website is on its way",
    "under maintenance", "maintenance mode", "we'll be back soon", "we will be back soon",
    "opening soon", "stay tuned", "im aufbau", "im umbau", "hier entsteht", "demnächst",
    "in kürze verfügbar", "wartungsmodus", "wartungsarbeiten", "en construction",
    "bientôt disponible", "prochainement", "site en maintenance", "en construcción",
    "próximamente", "sitio en mantenimiento", "in costruzione", "sito in manutenzione",
    "prossimamente", "em construção", "em breve", "em manutenção", "in aanbouw", "binnenkort",
    "in onderhoud", "w budowie", "już wkrótce", "przerwa techniczna", "в разработке",
    "скоро открытие", "сайт находится в разработке", "ve výstavbě", "under opbygning",
    "under uppbyggnad", "yapım aşamasında", "yakında", "建设中", "即将上线", "準備中", "工事中",
    "준비중",
)  # fmt: skip
NOT_FOUND_PHRASES = (
    "page not found", "page cannot be found", "page could not be found", "page can't be found",
    "page can’t be found", "page does not exist", "page doesn't exist", "404 not found",
    "error 404", "404 error", "404 - ", "http 404", "file not found", "site not found",
    "nothing found", "the requested url was not found", "no longer available",
    "seite nicht gefunden", "seite wurde nicht gefunden", "seite konnte nicht gefunden werden",
    "page introuvable", "page non trouvée", "página no encontrada", "no se encontró la página",
    "pagina non trovata", "página não encontrada", "pagina niet gevonden", "nie znaleziono strony",
    "strona nie istnieje", "страница не найдена", "stránka nenalezena", "siden blev ikke fundet",
    "sidan hittades inte", "sayfa bulunamadı", "页面不存在", "找不到页面",
    "ページが見つかりません", "페이지를 찾을 수 없습니다",
)  # fmt: skip
LOGIN_PHRASES = (
    "log in", "login", "sign in", "anmelden", "einloggen", "connexion", "se connecter",
    "iniciar sesión", "accedi", "entrar", "inloggen", "zaloguj", "войти", "вход", "přihlášení",
    "log ind", "logga in", "giriş", "登录", "登入", "ログイン", "로그인", "password required",
)  # fmt: skip
